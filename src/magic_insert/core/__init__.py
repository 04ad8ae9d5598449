"""Pure ground floor: records, images, masks, compositing, random numbers. Knows torch, numpy, PIL and rich only."""
