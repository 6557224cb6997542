"""The project's own extractor: a tree of the page, figures of its blocks, a model that chooses among them, text."""
