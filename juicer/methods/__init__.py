"""The paper: SFT, IRFT (Algorithm 2), RFT (Algorithm 1) and the objectives they train with."""
