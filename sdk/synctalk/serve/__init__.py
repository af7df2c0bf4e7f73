"""``synctalk serve``: avatars over WebRTC and WebSockets, with a web page. Needs the extra ``synctalk[serve]``."""
