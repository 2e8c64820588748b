"""What a lane does: one job a module, from the claim to the audit line."""
