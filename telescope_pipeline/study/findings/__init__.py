"""How findings are read off histories, with error bars over seeds."""
