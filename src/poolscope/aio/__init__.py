"""The asyncio driver: it does what the core decides, and decides nothing itself."""
