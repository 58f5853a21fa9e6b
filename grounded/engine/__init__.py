"""The data engine of Segment Anything (Kirillov et al., 2023, section 4): annotation in rounds that train their model.

    engine.json          plan, and how far it has come
    rounds/01-assisted/  a labelling run for each round: browse, export and evaluate work on it
        images.txt       the images of the round
        sa1b/            masks that the model found by itself, in the layout of SA-1B
    models/01/           the training after each round, a folder of `grounded train segmenter`
    report.json, report.md, report.png

A round begins with nothing (assisted), with confident masks to which a person adds what is missing (semi), or with all
masks of the automatic stage (auto). What a person accepted in all rounds so far is what the next model is trained on.
"""
