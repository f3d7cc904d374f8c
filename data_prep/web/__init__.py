"""Code-related pages of the web (paper §2.1.2): main text, and recall in rounds from a small seed."""
