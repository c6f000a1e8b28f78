"""Taking files in: from the inbox, from upload URLs, and the rejected items of another batch."""
