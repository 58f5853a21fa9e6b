"""The values that are passed from stage to stage: images, phrases, detections, instances, and model protocols."""
