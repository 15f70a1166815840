"""Who may connect to the broker and do what: its accounts, their rights, the certificates of TLS."""
