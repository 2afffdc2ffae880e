"""How an attempt becomes objects; pure. One module per engine."""
