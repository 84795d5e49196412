"""Where the pose of a particle comes from. One file a source."""
