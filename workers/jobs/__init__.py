"""Jobs of the lanes, a module for each: from the claim to the audit line."""
