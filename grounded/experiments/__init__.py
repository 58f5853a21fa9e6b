"""The experiments of Segment Anything (Kirillov et al., 2023), each as values and functions that a command runs."""
