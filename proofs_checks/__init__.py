"""Claims about loss of plasticity: stated, generated, checked, refuted, re-checked. Import the submodules you need."""
