"""Templates only: what Triton is given (`engine/`, `llmapi/`), what a deployment needs around it (`deploy/`), and
what a scheduler is given (`nightly/`).

Every value is computed in Python by `serving.render`; a template holds loops and values. The Python files are copied as
they are and run in the server's Python, so they import nothing of this project.
"""
