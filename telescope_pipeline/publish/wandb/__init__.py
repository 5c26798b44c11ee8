"""What Weights & Biases has besides what every tracker has.

Runs are always written to ``folders`` first; that takes no network and little time.  ``sending``
brings them to the server and reads them back, and ``page`` saves a report about them.  ``client``,
``run_file`` and ``blocks`` work in the client's own process.
"""

from telescope_pipeline.publish.wandb.sending import deliver, send

__all__ = ["deliver", "send"]
