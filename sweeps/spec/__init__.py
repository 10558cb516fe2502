"""The specification of a sweep: settings and the rules between them, the grid, the document, its error messages."""
