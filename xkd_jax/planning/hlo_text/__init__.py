"""XLA's text of compiled programs.

All that depends on how XLA writes programs and errors is in this package. A text that it does not
know raises `UnknownTextError`, so that no number is computed from half of a program.
"""
