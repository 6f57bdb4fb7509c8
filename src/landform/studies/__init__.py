"""One file a paper. ``studies/some_slug.py`` holds the study of the paper ``some-slug`` as its ``study``."""
