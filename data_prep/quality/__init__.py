"""Quality filtering (paper §2.1): signals of a file, rules over them, and the stages score and quality_filter."""
