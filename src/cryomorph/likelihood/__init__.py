"""How well a conformation at a pose explains an image. One file a likelihood."""
