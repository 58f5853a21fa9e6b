"""Data sets labelled with words: a folder of records that survives crashes, and is reviewed, exported and measured."""
