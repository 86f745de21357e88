//! Certificates as a Parquet file (Apache Parquet 2), made row group by row group: memory holds one,
//! and some 3 KB for each of those before it, which the file's end repeats.

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::web::Bytes;
use chrono::DateTime;
use chrono::Utc;
use parquet::basic::Compression;
use parquet::basic::Encoding;
use parquet::basic::ZstdLevel;
use parquet::data_type::ByteArray;
use parquet::data_type::ByteArrayType;
use parquet::data_type::Int64Type;
use parquet::errors::Result;
use parquet::file::properties::EnabledStatistics;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedColumnWriter;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use crate::ca::export::Exported;
use crate::pki::hex;
use crate::pki::name::AttributeType;

pub(super) use parquet::errors::ParquetError as Fault;

/// Its media type, as registered with IANA.
pub(super) const MEDIA_TYPE: &str = "application/vnd.apache.parquet";

/// Certificates after which a row group is closed, at least.
pub(super) const GROUP_ROWS: usize = 20_000;

/// What a column holds, and how it is taken from a certificate.
enum Column {
    /// Text that every certificate has and each has another.
    Own(fn(&Exported) -> Cow<'_, str>),
    /// Text that every certificate has, out of a few.
    Word(fn(&Exported) -> &str),
    /// Text that not every certificate has.
    Maybe(fn(&Exported) -> Option<Cow<'_, str>>),
    Time(fn(&Exported) -> DateTime<Utc>),
    Number(fn(&Exported) -> i64),
    Octets(fn(&Exported) -> &[u8]),
}

/// The columns, named as in REST, their order and types: a contract. Text is UTF-8, octets are
/// `BYTE_ARRAY`, times are UTC to the microsecond.
const COLUMNS: [(&str, Column); 27] = [
    (
        "serial_number",
        Column::Own(|it| it.serial_number.to_hex().into()),
    ),
    (
        "fingerprint_sha256",
        Column::Own(|it| hex(&it.fingerprint).into()),
    ),
    ("spki_sha256", Column::Own(|it| hex(&it.spki_sha256).into())),
    ("kind", Column::Word(|it| it.kind.as_str())),
    ("profile", Column::Word(|it| &it.profile)),
    ("issuer", Column::Word(|it| &it.issuer)),
    ("station", Column::Word(|it| &it.principal)),
    (
        "order",
        Column::Maybe(|it| it.order.as_deref().map(Cow::from)),
    ),
    ("device", Column::Own(|it| Cow::from(&it.device))),
    (
        "CN",
        Column::Maybe(|it| subject(it, AttributeType::CommonName)),
    ),
    (
        "serialNumber",
        Column::Maybe(|it| subject(it, AttributeType::SerialNumber)),
    ),
    ("C", Column::Maybe(|it| subject(it, AttributeType::Country))),
    (
        "ST",
        Column::Maybe(|it| subject(it, AttributeType::StateOrProvince)),
    ),
    (
        "L",
        Column::Maybe(|it| subject(it, AttributeType::Locality)),
    ),
    (
        "O",
        Column::Maybe(|it| subject(it, AttributeType::Organization)),
    ),
    (
        "OU",
        Column::Maybe(|it| subject(it, AttributeType::OrganizationalUnit)),
    ),
    (
        "dnQualifier",
        Column::Maybe(|it| subject(it, AttributeType::DnQualifier)),
    ),
    ("key_origin", Column::Word(|it| it.key_origin.as_str())),
    (
        "thing_name",
        Column::Maybe(|it| it.thing_name.as_deref().map(Cow::from)),
    ),
    ("not_before", Column::Time(|it| it.validity.not_before)),
    ("not_after", Column::Time(|it| it.validity.not_after)),
    ("issued_at", Column::Time(|it| it.issued_at)),
    ("status", Column::Word(|it| it.status.as_str())),
    (
        "supersedes",
        Column::Maybe(|it| it.superseded.map(|it| it.to_hex().into())),
    ),
    (
        "superseded_by",
        Column::Maybe(|it| it.successor.map(|it| it.to_hex().into())),
    ),
    ("log_index", Column::Number(|it| it.log_index)),
    ("der", Column::Octets(|it| &it.der)),
];

fn subject(it: &Exported, kind: AttributeType) -> Option<Cow<'_, str>> {
    it.subject.get(kind).map(Cow::from)
}

/// A file that is being made.
pub(super) struct ParquetFile {
    writer: SerializedFileWriter<Vec<u8>>,
    whole: bool,
}

impl ParquetFile {
    /// A file without rows.
    pub(super) fn new() -> Result<Self> {
        let schema = COLUMNS.iter().map(|(name, column)| column.declared(name));
        let schema = format!("message certificates {{ {} }}", schema.collect::<String>());
        let schema = Arc::new(parse_message_type(&schema)?);
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_dictionary_enabled(false)
            // By row group, which keeps the end short: nothing looks for a row within one.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_column_encoding(ColumnPath::from("log_index"), Encoding::DELTA_BINARY_PACKED);
        for (name, column) in &COLUMNS {
            if column.repeats() {
                properties =
                    properties.set_column_dictionary_enabled(ColumnPath::from(*name), true);
            }
        }
        let properties = Arc::new(properties.build());
        Ok(Self {
            writer: SerializedFileWriter::new(Vec::new(), schema, properties)?,
            whole: false,
        })
    }

    /// Adds a row group of these; none for none.
    pub(super) fn group(&mut self, rows: &[Exported]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for (name, column) in &COLUMNS {
            let writer = group.next_column()?;
            let mut writer = writer.ok_or_else(|| Fault::General(format!("no column {name}")))?;
            column.write(rows, &mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// Ends the file: without its end nobody can read it.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.writer.finish()?;
        self.whole = true;
        Ok(())
    }

    /// Whether it has its end.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// What was added since the last time.
    pub(super) fn take(&mut self) -> Result<Bytes> {
        self.writer.flush()?;
        Ok(std::mem::take(self.writer.inner_mut()).into())
    }
}

impl Column {
    /// As a schema has it.
    fn declared(&self, name: &str) -> String {
        match self {
            Self::Own(_) | Self::Word(_) => format!("required binary {name} (STRING); "),
            Self::Maybe(_) => format!("optional binary {name} (STRING); "),
            Self::Time(_) => format!("required int64 {name} (TIMESTAMP(MICROS,true)); "),
            Self::Number(_) => format!("required int64 {name}; "),
            Self::Octets(_) => format!("required binary {name}; "),
        }
    }

    /// Whether a dictionary of its values is short.
    fn repeats(&self) -> bool {
        matches!(self, Self::Word(_) | Self::Maybe(_) | Self::Time(_))
    }

    fn write(&self, rows: &[Exported], to: &mut SerializedColumnWriter<'_>) -> Result<()> {
        let text = |value: Cow<'_, str>| ByteArray::from(value.into_owned().into_bytes());
        let octets: Vec<ByteArray> = match self {
            Self::Own(take) => rows.iter().map(take).map(text).collect(),
            Self::Word(take) => rows.iter().map(|row| ByteArray::from(take(row))).collect(),
            Self::Octets(take) => rows.iter().map(|row| take(row).to_vec().into()).collect(),
            Self::Maybe(take) => {
                let values: Vec<_> = rows.iter().map(take).collect();
                let there: Vec<i16> = values.iter().map(|it| it.is_some().into()).collect();
                let values: Vec<_> = values.into_iter().flatten().map(text).collect();
                let to = to.typed::<ByteArrayType>();
                return to.write_batch(&values, Some(&there), None).map(drop);
            }
            Self::Time(take) => {
                let values: Vec<_> = rows
                    .iter()
                    .map(|row| take(row).timestamp_micros())
                    .collect();
                let to = to.typed::<Int64Type>();
                return to.write_batch(&values, None, None).map(drop);
            }
            Self::Number(take) => {
                let values: Vec<_> = rows.iter().map(take).collect();
                let to = to.typed::<Int64Type>();
                return to.write_batch(&values, None, None).map(drop);
            }
        };
        let to = to.typed::<ByteArrayType>();
        to.write_batch(&octets, None, None).map(drop)
    }
}
