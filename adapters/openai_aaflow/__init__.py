"""What both adapters need of OpenAI's client: requests posted with it, and its replies as matrices."""
