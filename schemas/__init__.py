"""What may stand in ``params.yaml`` and in the tables that pass from stage to stage.

Import the modules themselves: the pipeline reruns a stage when a module it imports changes, so an
import that pulls in every schema would make every stage depend on all of them.
"""
