"""Fine-tuning of the models on a user's own data: segmenter, text prompt and detector. For `grounded train`.

    data, check         what is learned from, and what is wrong with it, named before the first step
    loop, processes     the loop that all trainings share: seeded, resumable, logged, on one or several processes
    folder, log         the folder of a training
    lora                low-rank updates
    embeddings, crop_embeddings     of images and of crops, on disk, where their encoder does not learn
    interactive         prompts, clicks and losses of Segment Anything
    box_precision       AP of boxes on held-out images
    grounding_dino_batches, grounding_dino_losses   prompts, targets and losses of Grounding DINO
    one_stage_losses    losses of the one-stage detector
    segmenter, text_prompt, grounding_dino, one_stage   one training each

A training of another model is one more file beside these, and a command or a value of `--from` in `grounded.cli.train`.
"""
