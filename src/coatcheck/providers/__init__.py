"""Payment service providers: the protocol, and one module per PSP."""
