"""The methods: what to ask about one seed, and what candidates and rejects the answers make."""
