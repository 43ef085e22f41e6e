"""What watches the line and the machine that it runs on."""
