"""Pretrains XKD, evaluates a checkpoint, or plans a run: `python main.py --help`.

The same as `python -m xkd_jax`, which works from any folder once the package is installed.
"""

if __name__ == "__main__":  # not in worker processes, which import this file
    from xkd_jax.__main__ import main

    main()
