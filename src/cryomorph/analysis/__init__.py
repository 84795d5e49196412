"""What a finished run says: its motion, its states, how flexible each residue is."""
