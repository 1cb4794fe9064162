"""An application that needs what is not installed."""
import nosuch

app = nosuch.app
