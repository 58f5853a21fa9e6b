"""The values that travel through the chain: images, phrases, detections, instances. For every other package."""
