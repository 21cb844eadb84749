"""${message.capitalize()}."""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = ${'"%s"' % down_revision if down_revision else None}


def upgrade() -> None:
    """Apply it. The previous version is still running, so only add; remove in a later version."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Revert it. A rollback of the service does not run this."""
    ${downgrades if downgrades else "pass"}
