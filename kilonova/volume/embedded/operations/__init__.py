"""Operations on volumes: one file each; home is the volume database."""
