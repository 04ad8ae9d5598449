"""Networks and frozen wrappers; diffusers, transformers, peft, open_clip, timm and lpips are imported here only."""
