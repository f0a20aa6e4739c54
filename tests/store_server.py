"""A process with an emulator of a store, for `stores`: prints its URL, ends with standard input.

Argument: s3 or gs.
"""

import logging
import sys

if sys.argv[1] == "s3":
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
else:
    import gcs_emulator

    print(gcs_emulator.start(), flush=True)
sys.stdin.read()
