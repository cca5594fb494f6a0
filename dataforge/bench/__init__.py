"""How fast the data path is here, stage by stage, and what a training step would wait for."""
