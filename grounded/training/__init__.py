"""Fine-tuning of the models on a user's own data: segmenter, text prompt and detector. For `grounded train`.

    data, check         what is learned from, and what is wrong with it, named before the first step
    loop, processes     the loop that all trainings share: seeded, resumable, logged, on one or several processes
    folder, log         the folder of a training
    lora                low-rank updates
    embeddings, crop_embeddings     of images and of crops, on disk, where their encoder does not learn
    interactive         prompts, clicks and losses of Segment Anything
    detector_batches, detector_losses   prompts, targets and losses of Grounding DINO
    segmenter, text_prompt, detector    one training each

A training of another model, such as a one-stage detector, is one more file beside the last three, and one more command
or value of `--from` in `grounded.cli.train`.
"""
