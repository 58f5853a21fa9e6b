"""The networks of `photo`: data, trainings, export and measurements."""
