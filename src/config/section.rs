//! The macro that declares a section of the file: its keys, their types, defaults and explanations, once for the parser,
//! the schema and the hints.

/// Declares a section. After each key stands its type, and then `= default` (in a notation that is both TOML and JSON),
/// `=> required`, or nothing.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        struct $name:ident {
            $( $(#[doc = $doc:literal])* $key:ident : $type:ty $(= $default:tt)? $(=> $required:ident)? ),* $(,)?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone)]
        pub(in crate::config) struct $name {
            $( $(#[doc = $doc])* pub $key: Option<$crate::config::reader::At<$type>>, )*
        }

        impl $name {
            const FIELDS: &'static [$crate::config::reader::FieldSpec] = &[
                $( section!(@field $key, concat!($($doc, "\n",)*), [$($default)?], [$($required)?]), )*
            ];

            /// The keys.
            const KEYS: &'static [&'static str] = &[ $( stringify!($key) ),* ];
        }

        impl $crate::config::reader::FromToml for $name {
            fn from_toml(
                node: &$crate::config::reader::Node<'_>,
                reader: &mut $crate::config::reader::Reader<'_>,
            ) -> Option<Self> {
                let table = reader.table(node, "a table")?;
                let location = reader.place_of(node);
                reader.refuse_unknown(table, Self::KEYS);
                Some(Self { $(
                    $key: {
                        const FIELD: $crate::config::reader::FieldSpec =
                            section!(@field $key, concat!($($doc, "\n",)*), [$($default)?], [$($required)?]);
                        reader.field((table, location), &FIELD)
                    },
                )* })
            }

            fn schema() -> serde_json::Value {
                let types = [ $( <$type as $crate::config::reader::FromToml>::schema() ),* ];
                $crate::config::schema::of_section(concat!($($about, "\n",)*), Self::FIELDS, types)
            }
        }
    };
    (@field $key:ident, $doc:expr, [$($default:tt)?], [$($required:ident)?]) => {
        $crate::config::reader::FieldSpec {
            key: stringify!($key),
            doc: $doc,
            default: section!(@default $($default)?),
            is_required: section!(@is_required $($required)?),
        }
    };
    (@default) => { None };
    (@default $default:tt) => { Some(stringify!($default)) };
    (@is_required) => { false };
    (@is_required required) => { true };
}

pub(in crate::config) use section;
