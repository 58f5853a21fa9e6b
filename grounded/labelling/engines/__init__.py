"""Ways to run a labelling task: in this process, or on Ray."""
