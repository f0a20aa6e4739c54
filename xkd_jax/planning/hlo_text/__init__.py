"""XLA's text of compiled programs.

All code that depends on how XLA writes programs and errors is in this package. Unknown text raises
`UnknownTextError`, so that no number is computed from a part of a program.
"""
