"""Pure ground floor: records, images, masks, compositing, random numbers. Knows torch, numpy and PIL only."""
