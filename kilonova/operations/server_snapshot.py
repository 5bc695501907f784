"""Make an image of a server: createImage.

snapshot    the host copies the root disk
describe    the image record says what the bytes are
upload      the host gives them to the image service
finish      the server is what it was
"""

from kilonova.operations.snapshots import snapshot_saga

SAGA = snapshot_saga("server_snapshot")
