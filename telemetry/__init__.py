"""The contract: kinds of readings, each declared once, their rules and topics."""
