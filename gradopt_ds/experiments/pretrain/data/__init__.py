"""Text → documents of one rank → sequences of one length, resumable to the token."""
