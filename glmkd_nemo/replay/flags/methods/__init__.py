"""One module per student model of the reference, named as its option names it."""
