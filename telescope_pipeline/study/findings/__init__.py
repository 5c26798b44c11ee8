"""How findings are read off histories: numbers by seed, their error bars, events, and claims."""
