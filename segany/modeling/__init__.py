"""The networks of Segment Anything as published: image encoders, prompt encoder and mask decoder."""
