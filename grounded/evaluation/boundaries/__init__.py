"""How well edge maps agree with the boundaries that people drew, by the protocol of BSDS500 (Arbeláez et al., 2011).

`measure_edge_map` counts in one image, `score_boundaries` turns the counts of all images into ODS, OIS, AP and R50, and
`measure_edge_maps` measures many images in several processes.
"""
