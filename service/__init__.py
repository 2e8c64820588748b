"""What was asked, what is true, and the HTTP door to it."""
