"""Training data written by a teacher model and checked here: seeds, prompts, strict grammars, tests in a sandbox.

uses.py names what it is used for; stage.py is the stage; teacher.py asks, and store.py remembers.
"""
