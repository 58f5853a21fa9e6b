"""The modules of Segment Anything as published: image encoders, prompt encoder, mask decoder."""
